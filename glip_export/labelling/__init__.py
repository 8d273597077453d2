"""Data sets too large for one call: pictures from anywhere, labelled by this machine or by many on Ray.

A source gives items in an order that its files alone decide; blocks of them go to workers; what comes back is kept in
shards, each written whole together with the sources that it answers; data sets to train with are made of the shards.
"""
