"""Many runs on several nodes while everything breaks: nothing may be lost, nothing doubled, nothing left over."""
