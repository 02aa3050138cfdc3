"""What is learned from, and what training asks of a diffusion model."""
