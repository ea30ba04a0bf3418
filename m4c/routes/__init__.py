"""Routes: tasks executed over the artifacts of a bundle, with numpy and the runtimes alone.

:func:`m4c.routes.perform.perform` is the door: a task and what it is given to a result.
"""
