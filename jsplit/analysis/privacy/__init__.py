"""What an honest-but-curious server learns from what a run sent to it.

Needs the extra `jsplit[privacy]`: dcor and scikit-image.
"""
