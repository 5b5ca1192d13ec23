//go:build race

package policy

// pooled says that a sync.Pool gives back what was put into it; the race detector makes it forget at random.
const pooled = false
