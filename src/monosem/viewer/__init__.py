"""Look at a dictionary in the browser: an index of every latent, the pages that show it, and a server for them."""
