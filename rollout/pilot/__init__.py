"""The pilot: one business line's mails, its prompt and labels, and a small model that reads them.

`rollout.pilot.texts` needs only the standard library; `rollout.pilot.train` needs torch.
"""

from pathlib import Path

PILOT_DIR = Path(__file__).resolve().parent
MODEL_DIR = PILOT_DIR / "model"
"""A transformers directory: `AutoModelForCausalLM.from_pretrained(MODEL_DIR)`."""
ASSETS_DIR = PILOT_DIR / "assets"
TEMPLATE_FILE = ASSETS_DIR / "prompts" / "billing.j2"
LABELS_FILE = ASSETS_DIR / "labels" / "billing.txt"
