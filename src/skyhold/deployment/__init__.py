"""What runs versions somewhere: it joins the store, which has them, with servers, which know no store."""
