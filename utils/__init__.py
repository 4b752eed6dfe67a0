"""What more than one script needs, one noun per file."""
