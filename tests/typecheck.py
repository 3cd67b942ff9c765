"""The run-time checker of annotations and tensor shapes that the tests install."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
