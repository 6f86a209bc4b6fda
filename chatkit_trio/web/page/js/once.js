// Loading what is needed later.

/** Returns a function that loads something once; after a failure it can be tried again. */
export function once(load) {
  let loading = null;
  return () => {
    loading ??= load().catch((error) => {
      loading = null;
      throw error;
    });
    return loading;
  };
}
