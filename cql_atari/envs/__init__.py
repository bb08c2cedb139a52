"""Atari through ALE: Dopamine's preprocessing, actors, scripted behaviours."""
