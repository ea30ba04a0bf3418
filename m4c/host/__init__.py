"""Host-side preparation: from files and text to the arrays that a graph takes, with numpy alone."""
