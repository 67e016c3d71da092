// What a call of the API can fail with: one kind of error, whoever refused it.

const PASSING = new Set([408, 425, 429, 500, 502, 503, 504]);

export class ApiError extends Error {
  /** `status` is 0 where there was no answer at all. `code` is the API's own word, or `network`, or `http_<status>`. */
  constructor({ status = 0, code, message, field = null, runId = null, retryAfterMs = null }, options) {
    super(message, options);
    this.name = "ApiError";
    Object.assign(this, { status, code, field, runId, retryAfterMs });
  }
}

/** Whether the same call may be answered better a little later. */
export function isPassing(error) {
  return error instanceof ApiError && (error.status === 0 || PASSING.has(error.status));
}

export function networkError(cause) {
  return new ApiError({ code: "network", message: "the service can't be reached" }, { cause });
}

/** The error that a *response* tells of; what isn't the API's own JSON was said by a proxy. */
export async function apiError(response) {
  const said = await response.json().catch(() => null);
  const error = said?.error ?? {};
  return new ApiError({
    status: response.status,
    code: error.code ?? `http_${response.status}`,
    message: error.message ?? `the service answered ${response.status}`,
    field: error.field ?? null,
    runId: error.run_id ?? null,
    retryAfterMs: retryAfter(response.headers.get("Retry-After")),
  });
}

/** Source: RFC 9110, section 10.2.3: seconds, or a date. */
function retryAfter(value) {
  if (!value) return null;
  const ms = /^[0-9]+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isFinite(ms) ? Math.max(0, ms) : null;
}
