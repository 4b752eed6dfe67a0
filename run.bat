@echo off
rem Finds a Python 3.11 or newer and hands over to launch.py, which does the rest.
setlocal DisableDelayedExpansion
set "PYTHON_MANAGER_AUTOMATIC_INSTALL=false"
set "MIRROR_PYTHON="
for %%V in (3.14 3.13 3.12 3.11) do if not defined MIRROR_PYTHON py -%%V -c "pass" >nul 2>&1 && set "MIRROR_PYTHON=py -%%V"
if not defined MIRROR_PYTHON py -3 -c "import sys; sys.exit(sys.version_info < (3, 11))" >nul 2>&1 && set "MIRROR_PYTHON=py -3"
if not defined MIRROR_PYTHON python -c "import sys; sys.exit(sys.version_info < (3, 11))" >nul 2>&1 && set "MIRROR_PYTHON=python"
if not defined MIRROR_PYTHON goto none
%MIRROR_PYTHON% -I "%~dp0launch.py" %*
set "CODE=%ERRORLEVEL%"
goto end

:none
echo MirrorMetrics needs Python 3.11 or newer, and none was found. Install one from https://www.python.org/downloads/ then start again. 1>&2
set "CODE=2"

:end
rem A double-clicked window would close before anyone could read it. Explorer starts cmd /c with the name of this file;
rem in Windows Terminal, or with arguments, somebody typed the command and keeps the window anyway.
set "FIRST=%~1"
if defined FIRST exit /b %CODE%
if defined WT_SESSION exit /b %CODE%
setlocal EnableDelayedExpansion
if not "!CMDCMDLINE:run.bat=!"=="!CMDCMDLINE!" pause
exit /b %CODE%
