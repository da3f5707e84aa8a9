"""The worker loop and what surrounds it: step, engine, checkpoint, driver. The only room that knows Ray Train."""
