"""Training of ``m4-nano``: one file a part, seeded, on data that a package carries or that is made here.

Nothing of m4c imports it. ``python -m m4c.models.training`` trains all parts; each part is a command of its own too. It needs
``pip install m4c[training]`` and the program ``espeak-ng``, which speaks the words; who uses the weights needs neither.
"""
