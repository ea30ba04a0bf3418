"""Train all parts, in their order: what a part needs of another comes before it."""

from m4c.models.training import drawing, encoders, language, recognizer, speaker

for part in (encoders, language, recognizer, speaker, drawing):
    part.main()
