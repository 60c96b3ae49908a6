"""Sight Beyond Text: does training on images make a language model more truthful and ethical?"""

__version__ = "0.1.0"
