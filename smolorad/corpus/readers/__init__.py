"""Readers of datasets that the library `datasets` opens; they yield rows, and problems where rows should be, in order."""
