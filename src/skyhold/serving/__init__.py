"""The model server: a folder of verified files in, answers by the Open Inference Protocol out.

It knows no store, repository or ref: the floor above pulls versions and swaps them.
"""
