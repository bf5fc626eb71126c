// Labelled controls.

interface SliderProps {
  label: string;
  value: number;
  min: number;
  max: number;
  step?: number;
  show?: (value: number) => string;
  onChange: (value: number) => void;
}

export function Slider({ label, value, min, max, step = 1, show = String, onChange }: SliderProps) {
  return (
    <label class="field slider">
      <span>{label}</span>
      <input
        type="range"
        min={min}
        max={max}
        step={step}
        value={value}
        aria-valuetext={show(value)}
        onInput={(event) => onChange(Number(event.currentTarget.value))}
      />
      <output>{show(value)}</output>
    </label>
  );
}

interface ChoiceProps<Value extends string> {
  label: string;
  value: Value;
  options: readonly (readonly [Value, string])[];
  onChange: (value: Value) => void;
}

export function Choice<Value extends string>(props: ChoiceProps<Value>) {
  return (
    <label class="field">
      <span>{props.label}</span>
      <select
        value={props.value}
        onChange={(event) => props.onChange(event.currentTarget.value as Value)}
      >
        {props.options.map(([value, text]) => (
          <option key={value} value={value}>
            {text}
          </option>
        ))}
      </select>
    </label>
  );
}

interface LineProps {
  label: string;
  value: string;
  /** Room for a word, not for a sentence. */
  short?: boolean;
  onChange: (value: string) => void;
}

export function Line({ label, value, short = false, onChange }: LineProps) {
  return (
    <label class={short ? "field short" : "field line"}>
      <span>{label}</span>
      <input
        type="text"
        value={value}
        spellcheck={false}
        onChange={(event) => onChange(event.currentTarget.value)}
      />
    </label>
  );
}
