//go:build !race

package policy

const pooled = true
