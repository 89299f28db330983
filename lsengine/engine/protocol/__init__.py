"""Who gets which cells: the conversation between coordinator and workers."""
