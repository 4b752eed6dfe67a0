"""Limits that real and generated pictures share: what counts as a second face, and as the same face again."""

# A second face counts from a third of the main face's width on (a ninth of its area): smaller ones are people in the
# background, or a pattern that a detector takes for a face. Our choice.
SECOND_FACE_SHARE = 1 / 9

# Upper limit of the similarity to one reference, and how close all three head angles must be, for a face to count as
# that reference's own, put into another picture. The Danger Zone begins too low for a verdict: new pictures of
# a rendered person reach 0.96 to a reference of the same pose (pack_mini, 48 pictures), while the very same face before
# another background scores 0.92 to 1.00, 8 of 12 above 0.97, all within 2 degrees. A picture that is copied whole is
# caught by its hash (near duplicate), whatever its faces score.
COPY_SIMILARITY, COPY_ANGLES_DEG = 0.97, 3.0
