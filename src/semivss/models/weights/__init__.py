"""Weights of anybody in, a model of ours out. `convert.py` and `inspect.py` hold the main path; the other files are its steps.

weight_file     a file or folder -> its tensors (`plain_pickle`: without running anything)
recognise       tensors -> whose model, and the tensors under our names (`names`, `mask2former_folder`)
architecture    what the shapes tell (`shapes`) and what the user gives (`given`) -> the settings of the model
classes         its classes and those wanted -> what becomes of the classifier
load            all that -> a model with those weights, and a report (`fit`: which tensor goes where)

Nothing is downloaded. `lite0` is the one file of weights that a package carries.
"""
