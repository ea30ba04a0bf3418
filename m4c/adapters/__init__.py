"""Adapters: small trained changes of a frozen sub-model, read as PEFT stores them, merged into weights or kept beside them."""
