"""Methods that round a matrix to a grid (:mod:`m4c.blockwise`), one a file."""
