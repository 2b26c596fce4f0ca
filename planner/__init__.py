"""An agent runtime: a planner model turns a goal into a checked plan, and the plan runs durably."""
