// Whoever looks at the clock finds that half a second has passed: work that takes long, without the time.

const now = performance.now.bind(performance)
let looks = 0
performance.now = () => now() + 500 * looks++
