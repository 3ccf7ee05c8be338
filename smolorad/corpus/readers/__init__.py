"""One file for each kind of source; every reader yields rows, and problems where rows should be, in the order they stand."""
