"""What Odysseus is measured against, a screenful each."""
