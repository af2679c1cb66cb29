"""Ways to generate tokens: prefill and decode. No engine holds a clock or waits for the device."""
