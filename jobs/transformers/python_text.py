"""Write the text that characters.yaml learns: the help topics that come with every Python.

    python jobs/transformers/python_text.py          # writes data/python.txt

It is about 465,000 characters of English prose about Python, part of its documentation, whose
licence is the PSF License Agreement (https://docs.python.org/3/license.html).  The text differs a
little between versions of Python.
"""

from __future__ import annotations

from pathlib import Path
from pydoc_data.topics import topics

text = "\n".join(topics[name] for name in sorted(topics))
file = Path(__file__).parents[2] / "data" / "python.txt"
file.parent.mkdir(exist_ok=True)
file.write_bytes(text.encode())  # the same line ends everywhere
print(f"{file}: {len(text):,} characters, {len(set(text))} of them different")
