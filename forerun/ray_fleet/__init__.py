"""Workers on a Ray cluster: Ray says where each runs and starts it elsewhere when its machine is lost, no more.

Calls go straight to the workers, over gRPC as ever, and controllers find them through Redis as ever.
"""
