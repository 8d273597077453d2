"""Flickr30k: how many phrases of a sentence are found, among the best 1, 5 or 10 boxes."""
