"""The models of the paper's 50 tasks, and how many operator types such a fleet needs: docs/operator_count.md."""
