"""Support tickets: make a classifier, ask it, teach it a new category. `python examples/tickets.py [URL]`."""

import sys

import httpx

EXAMPLES = {
    "delivery": ["Where is my parcel?", "The courier left it at the wrong house"],
    "billing": ["I was charged twice", "Please send me the invoice again"],
    "login": ["I forgot my password", "My account is locked"],
}


def main(url: str) -> None:
    """Everything a client needs is four requests."""
    with httpx.Client(base_url=url, timeout=60) as client:
        task = client.post("/v1/tasks", json={"backbone": "text-minilm", "support": EXAMPLES}).raise_for_status().json()
        print(f"task {task['id']}: {task['learner']} on {task['examples']} examples")
        ask(client, task["id"], ["my package has not come", "give me my money back"])
        more = {"refund": ["I want my money back", "When am I reimbursed?"]}
        task = client.post(f"/v1/tasks/{task['id']}/examples", json={"support": more}).raise_for_status().json()
        print(f"version {task['version']} knows {', '.join(task['labels'])}")
        ask(client, task["id"], ["give me my money back"])


def ask(client: httpx.Client, task: str, texts: list[str]) -> None:
    """Print the label and the confidence of each text."""
    answer = client.post(f"/v1/tasks/{task}/predict", json={"inputs": texts}).raise_for_status().json()
    for text, one in zip(texts, answer["predictions"], strict=True):
        print(f"  {text!r}: {one['label']} ({one['confidence']:.2f})")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000")
