"""LVIS: average precision where each picture is annotated for some of many categories only."""
