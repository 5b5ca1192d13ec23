//go:build race

package gateway_test

const raceEnabled = true // pools forget on purpose then
