"""Routes: tasks executed over the artifacts of a bundle, with numpy and the runtimes alone."""
