#!/usr/bin/env bash
# Builds the site of the documentation into build/docs.
#
#   launch/docs.sh DIR [html|linkcheck]    DIR is an environment that launch/setup.sh has made
#
# The tools get an environment of their own, .venv-docs, which sees the packages of DIR: the
# reference is made of lsengine itself.  A warning is an error.  `linkcheck` asks other sites, too.
set -euo pipefail

if [ $# = 0 ] || [ $# -gt 2 ]; then
    echo "usage: launch/docs.sh DIR [html|linkcheck]" >&2
    exit 2
fi
cd "$(dirname "$0")/.."
tools=.venv-docs
if [ ! -e $tools/complete ] || [ setup.cfg -nt $tools/complete ]; then
    "$1/bin/python" -m venv $tools
    "$1/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
        >"$($tools/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/lsengine.pth"
    "$1/bin/python" - >$tools/packages <<'CODE'
import configparser
setup = configparser.ConfigParser()
setup.read("setup.cfg")
print(setup["options.extras_require"]["docs"].strip())
CODE
    $tools/bin/python -m pip install --quiet -c constraints.txt -r $tools/packages
    touch $tools/complete
fi
$tools/bin/sphinx-build --quiet --fail-on-warning --keep-going -b "${2-html}" docs "build/docs${2+-$2}"
[ "${2-html}" != html ] || echo build/docs/index.html
