"""The gateway: verifier-guided search behind OpenAI's protocol (`tts-serve`). Needs the extra `serve`."""
