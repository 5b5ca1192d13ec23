package wire

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

// rarely lets one line of a sort be logged every ten seconds: what strangers can cause must not fill a disk. A line
// says how many like it were left out since the one before.
type rarely struct{ next, more atomic.Int64 }

const tellEvery = 10 * time.Second

func (r *rarely) warn(log *slog.Logger, text string, facts ...any) {
	r.log(log, slog.LevelWarn, text, facts)
}

func (r *rarely) info(log *slog.Logger, text string, facts ...any) {
	r.log(log, slog.LevelInfo, text, facts)
}

func (r *rarely) log(log *slog.Logger, level slog.Level, text string, facts []any) {
	now, next := time.Now().UnixNano(), r.next.Load()
	if now < next || !r.next.CompareAndSwap(next, now+int64(tellEvery)) {
		r.more.Add(1)
		return
	}
	if n := r.more.Swap(0); n > 0 {
		facts = append(facts, "more like this", n)
	}
	log.Log(context.Background(), level, text, facts...)
}
