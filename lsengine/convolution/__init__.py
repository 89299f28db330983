"""How is a convolution computed here, with the sum and the ReLU after it?"""

from lsengine.convolution.choice import Choice as Choice
from lsengine.convolution.choice import Geometry as Geometry
from lsengine.convolution.choice import choose as choose
from lsengine.convolution.convolution import Convolution as Convolution
from lsengine.convolution.convolution import Convolve as Convolve
from lsengine.convolution.convolution import convolutions as convolutions
from lsengine.convolution.convolution import is_row_major as is_row_major
