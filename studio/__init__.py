"""A local ComfyUI with this pack in it: find or fetch it, start it, run a workflow.

Standard library only, and neither ComfyUI nor the model is imported: this starts programs and talks
to them. run.py and the end-to-end tests use it.
"""
