import { Component, type ReactNode } from "react";

/** A fault of the page itself is said, with a way out, instead of a blank page. */
export class Fault extends Component<{ children: ReactNode }, { failure: Error | null }> {
  override state: { failure: Error | null } = { failure: null };

  static getDerivedStateFromError(failure: Error): { failure: Error } {
    return { failure };
  }

  override render(): ReactNode {
    if (this.state.failure === null) return this.props.children;
    return (
      <main className="fault" role="alert">
        <h1>This page has failed</h1>
        <p>{this.state.failure.message}</p>
        <button type="button" onClick={() => location.reload()}>
          Load it again
        </button>
      </main>
    );
  }
}
