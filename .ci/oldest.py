"""Prints the lower bounds of setup.cfg as pins, one a line.

Usage: python .ci/oldest.py > constraints.txt
"""

import configparser
import re

config = configparser.ConfigParser()
config.read("setup.cfg")
lists = [
    config["options"]["install_requires"],
    config["options.extras_require"]["test"],
]
for line in "\n".join(lists).split():
    match = re.fullmatch(r"([\w.-]+)>=([\w.]+).*", line)
    if match:
        print(f"{match[1]}=={match[2]}")
