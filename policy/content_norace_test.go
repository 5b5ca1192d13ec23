//go:build !race

package policy

const poolsForget = false
