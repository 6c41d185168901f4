from hypothesis import settings

# A machine that does other things too is no fault of the code: slow examples are told by --durations.
settings.register_profile("luxx", deadline=None)
settings.load_profile("luxx")
