//go:build race

package wire

const raceEnabled = true // pools forget on purpose then
