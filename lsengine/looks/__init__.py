"""What may be said of a picture; needs nothing but Python."""

from __future__ import annotations

from lsengine.looks.options import OPTIONS as OPTIONS
from lsengine.looks.options import Look as Look
from lsengine.looks.options import Option as Option
from lsengine.looks.options import check_kind as check_kind
from lsengine.looks.options import merged as merged
from lsengine.looks.options import said as said
from lsengine.looks.options import stated as stated
from lsengine.looks.options import suited as suited
