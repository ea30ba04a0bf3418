"""The gate of a change: figures of a subject on a target, held against limits, a baseline and waivers."""
