// Calls of the controller through the page's server. The token lives in this module and nowhere else: it is gone when
// the page is left, and no other site can make the browser send it.

let token = "";

/** What the controller, or the page before it, refused. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function remember(given) {
  token = given;
}

export function hasToken() {
  return token !== "";
}

/** The answer of a call such as "RouterService/Show"; throws Refused. */
export async function call(name, request = {}) {
  const headers = { "content-type": "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  let answer;
  try {
    answer = await fetch(`api/${name}`, {
      method: "POST",
      headers,
      body: JSON.stringify(request),
      credentials: "omit",
      cache: "no-store",
    });
  } catch {
    throw new Refused(0, "the page's own server does not answer; it may have been stopped");
  }
  const told = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, told.error?.message ?? `the server answered ${answer.status}`);
  return told;
}
