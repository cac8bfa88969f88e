"""Who hears of a run besides its terminal. `notifying` tells them."""
